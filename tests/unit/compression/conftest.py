"""Real documents, small made-up ones, and what a reader sees of them."""

import re
from collections.abc import Callable, Iterator
from pathlib import Path

import pikepdf
import pypdfium2
import pytest
from pikepdf import Dictionary, Name, Pdf, Stream
from PIL import Image, ImageChops, ImageStat

from backend.compression.engine.comparison import stop_renderer

SAMPLES = Path(__file__).parents[2] / "fixtures" / "pdf"
POINTS = 288  # the side of the page that `drawn` makes: 4 inches


@pytest.fixture(scope="module", autouse=True)
def no_renderer_left() -> Iterator[None]:
    """Other tests in this process count its children."""
    yield
    stop_renderer()


@pytest.fixture(scope="session")
def sample() -> Callable[[str], Path]:
    return lambda name: SAMPLES / f"{name}.pdf"


@pytest.fixture(scope="session")
def seen() -> Callable[..., list[Image.Image]]:
    """The pages of a document as PDFium shows them."""

    def render(path: Path, password: str | None = None) -> list[Image.Image]:
        with pypdfium2.PdfDocument(path, password=password) as document:
            document.init_forms()
            return [page.render(scale=1).to_pil().convert("RGB") for page in document]

    return render


@pytest.fixture(scope="session")
def read() -> Callable[[Path], str]:
    """The words of a document, without blanks."""

    def text(path: Path) -> str:
        with pypdfium2.PdfDocument(path) as document:
            pages = [page.get_textpage().get_text_range() for page in document]
        return re.sub(r"\s", "", "".join(pages))

    return text


@pytest.fixture(scope="session")
def apart() -> Callable[[Image.Image, Image.Image], float]:
    """The mean difference of two pages, from 0 (alike) to 255."""

    def difference(one: Image.Image, other: Image.Image) -> float:
        assert one.size == other.size
        channels = ImageStat.Stat(ImageChops.difference(one, other)).mean
        return sum(channels) / len(channels)

    return difference


@pytest.fixture
def drawn(tmp_path: Path) -> Callable[..., Path]:
    """A file of one page that draws an image over all of its 4 by 4 inches."""

    def draw(
        data: bytes, *, content: bytes = b"q 288 0 0 288 0 0 cm /Im Do Q", **entries: object
    ) -> Path:
        pdf = pikepdf.new()
        page = pdf.add_blank_page(page_size=(POINTS, POINTS))
        image = Stream(pdf, data, Type=Name.XObject, Subtype=Name.Image, **entries)
        page.Resources = Dictionary(XObject=Dictionary(Im=pdf.make_indirect(image)))
        page.Contents = pdf.make_stream(content)
        path = tmp_path / "drawn.pdf"
        pdf.save(path)
        return path

    return draw


@pytest.fixture
def image_of() -> Callable[[Pdf], Stream]:
    """The image that the first page of a document calls /Im."""
    return lambda pdf: pdf.pages[0].Resources.XObject.Im


@pytest.fixture(scope="session")
def photo() -> Image.Image:
    """A photograph of 768 by 512 pixels."""
    with pikepdf.open(SAMPLES / "photo.pdf") as pdf:
        (image,) = pdf.pages[0].Resources.XObject.values()
        samples = image.read_bytes()
        return Image.frombytes("RGB", (image.Width, image.Height), samples)
