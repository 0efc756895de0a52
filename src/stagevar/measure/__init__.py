"""Everything that measures: predictions, likeness, suites, studies, conformance, benchmarks."""
