import pytest
import torch

from stagevar.measure.likeness.fidelity import MAX_PSNR, band_energy, band_ratio, psnr, ssim


def pictures(n=3, h=40, w=32, seed=0):
    return torch.rand(n, 3, h, w, generator=torch.Generator().manual_seed(seed))


def test_equal_pictures():
    x = pictures()
    assert psnr(x, x).tolist() == [MAX_PSNR] * 3
    assert ssim(x, x).tolist() == pytest.approx([1.0] * 3)
    assert torch.allclose(band_ratio(x, x), torch.ones(3, 4))


def test_psnr_of_a_known_error():
    x = pictures() * 0.5
    assert psnr(x + 0.1, x).tolist() == pytest.approx([20.0] * 3, abs=1e-3)


def ssim_ref(x, y):
    """The definition, window by window."""
    offsets = torch.arange(11).double() - 5
    kernel = torch.exp(-(offsets**2) / 4.5)
    kernel = torch.outer(kernel, kernel) / kernel.sum() ** 2
    values = []
    for a, b in zip(x.double(), y.double(), strict=True):
        for i in range(a.shape[0] - 10):
            for j in range(a.shape[1] - 10):
                p, q = a[i : i + 11, j : j + 11], b[i : i + 11, j : j + 11]
                mp, mq = (kernel * p).sum(), (kernel * q).sum()
                vp, vq = (kernel * (p - mp) ** 2).sum(), (kernel * (q - mq) ** 2).sum()
                cov = (kernel * (p - mp) * (q - mq)).sum()
                numerator = (2 * mp * mq + 1e-4) * (2 * cov + 9e-4)
                values.append(numerator / ((mp**2 + mq**2 + 1e-4) * (vp + vq + 9e-4)))
    return torch.stack(values).mean()


def test_ssim_equals_its_reference():
    x = pictures(1, 16, 14)
    y = (x + 0.2 * pictures(1, 16, 14, seed=1)).clamp(0, 1)
    assert float(ssim(x, y)) == pytest.approx(float(ssim_ref(x[0], y[0])), abs=1e-6)


def test_pictures_smaller_than_the_window():
    assert ssim(pictures(1, 6, 6), pictures(1, 6, 6)).tolist() == pytest.approx([1.0])


def test_bands_hold_all_energy_but_the_mean():
    x = pictures(2, 24, 16)
    centred = x - x.mean((2, 3), keepdim=True)
    assert torch.allclose(band_energy(x).sum(1), centred.square().sum((1, 2, 3)), rtol=1e-4)


def test_blur_loses_the_high_bands_first():
    x = pictures(1, 64, 64)
    ratio = band_ratio(torch.nn.functional.avg_pool2d(x, 3, 1, 1), x)[0]
    assert ratio[0] > ratio[1] > ratio[2] > ratio[3]
