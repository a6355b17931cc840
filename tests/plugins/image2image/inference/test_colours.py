"""Colours that are hidden by transparency, and grey images stored as colour."""

import torch

from core.denoiser.parameterization import FunctionDenoiser, Prediction
from core.images.pictures import Picture
from core.parts.config import configure
from core.parts.registry import Spec
from plugins.image2image.inference import editing
from plugins.image2image.inference.colours import is_grey, shown_colours, with_colours_of


def hidden(pixels, alpha):
    return Picture(torch.where(alpha > 0, pixels, -1.0), alpha=alpha)


def test_the_colour_of_a_shape_goes_on_where_nothing_is_seen():
    rows, columns = torch.arange(37)[:, None], torch.arange(50)
    alpha = ((rows - 15) ** 2 + (columns - 30) ** 2 < 80).float()[None]
    colour = torch.tensor([0.75, -0.25, 0.5])[:, None, None].expand(3, 37, 50)
    found = shown_colours(hidden(colour, alpha))
    torch.testing.assert_close(found, colour, atol=1e-6, rtol=0)


def test_what_is_seen_keeps_its_bits_and_the_rest_lies_between_it():
    draw = torch.Generator().manual_seed(0)
    pixels = torch.rand((3, 21, 34), generator=draw) - 0.5
    alpha = (torch.rand((1, 21, 34), generator=draw) > 0.7) * torch.rand((1, 21, 34))
    found = shown_colours(hidden(pixels, alpha))
    seen = (alpha > 0).expand(3, -1, -1)
    assert torch.equal(found[seen], pixels[seen])
    for channel, known in zip(found, pixels, strict=True):
        least, most = known[seen[0]].min(), known[seen[0]].max()
        assert (channel >= least - 1e-6).all()
        assert (channel <= most + 1e-6).all()


def test_an_image_that_is_not_seen_at_all_is_unchanged():
    pixels = torch.rand(3, 5, 7)
    assert torch.equal(shown_colours(Picture(pixels, alpha=torch.zeros(1, 5, 7))), pixels)
    assert torch.equal(shown_colours(Picture(pixels)), pixels)


def test_grey_is_the_mean_in_as_many_channels_as_were_given():
    grey, found = torch.rand(1, 4, 6), torch.rand(3, 8, 12)
    for given in (grey, grey.expand(3, -1, -1)):
        result = with_colours_of(given, found)
        assert is_grey(result)
        assert result.shape == (len(given), 8, 12)
        torch.testing.assert_close(result[0], (found[0] + found[1] + found[2]) / 3)
    tinted = grey.repeat(3, 1, 1)
    tinted[2, 3, 5] += 1 / 255
    assert with_colours_of(tinted, found) is found


def test_an_edit_of_grey_stored_as_colour_is_grey():
    process = configure("process", Spec("core/vp_cosine"))()
    prior = editing.Prior(
        FunctionDenoiser(process, lambda x, t, condition=None: Prediction(x)), 3, 16, 4
    )

    def tint(model, image, noise, *, fill=None, watch=None):
        return image + torch.tensor([0.1, 0.0, -0.2])[:, None, None]

    grey = torch.rand(1, 20, 24) * 0.5
    (found,) = editing.draw_edits(
        tint, prior, grey.repeat(3, 1, 1), fill=None, seed=0, samples=1, emit=lambda _: None
    )
    torch.testing.assert_close(found, (grey - 0.1 / 3).expand(3, -1, -1))
    assert is_grey(found)
