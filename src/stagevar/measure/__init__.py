"""What is measured around the engine: conformance with reference outputs, speed, fidelity, studies."""
