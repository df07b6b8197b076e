"""Compress PDFs through the API of a running Sluice; scripts/compress runs this."""

import json
import sys
import tempfile
import zipfile
from pathlib import Path

import click
import httpx
from rich.console import Console

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from sluice_stack import StackError, batches
from sluice_stack.login import Login

REPORT = "report.csv"
console = Console(highlight=False, soft_wrap=True)


@click.command()
@click.argument(
    "files", nargs=-1, required=True, type=click.Path(exists=True, dir_okay=False, path_type=Path)
)
@click.option(
    "--to",
    default="compressed",
    show_default=True,
    type=click.Path(file_okay=False, path_type=Path),
    help="The folder for the smaller copies.",
)
@click.option(
    "--level",
    type=click.Choice(["lossless", "low", "medium", "high"]),
    default="medium",
    show_default=True,
)
@click.option("--image-quality", type=click.IntRange(1, 100))
@click.option(
    "--target-bytes", type=click.IntRange(min=1), help="The gentlest level that gives no more."
)
@click.option("--signed", type=click.Choice(["skip", "copy_and_invalidate"]))
@click.option("--attachments", is_flag=True, help="Compress attached PDFs too.")
@click.option("--pdf-password", help="What opens the files.")
@click.option("--url", help="Where Sluice is; without it, what scripts/up started here.")
@click.option("--email", help="Who logs in there; the password is asked for.")
@click.option(
    "--data",
    default="var",
    show_default=True,
    type=click.Path(file_okay=False, path_type=Path),
    help="The data folder of scripts/up, which has the log-in.",
)
def main(
    files: tuple[Path, ...],
    to: Path,
    level: str,
    image_quality: int | None,
    target_bytes: int | None,
    signed: str | None,
    attachments: bool,
    pdf_password: str | None,
    url: str | None,
    email: str | None,
    data: Path,
) -> None:
    """Compress FILES and put the smaller copies into a folder; 1 when some could not be."""
    asked = {
        "compression_level": level,
        "image_quality": image_quality,
        "target_bytes": target_bytes,
        "signed": signed,
        "compress_attachments": "true" if attachments else None,
        "password": pdf_password,
    }
    settings = {name: str(value) for name, value in asked.items() if value is not None}
    login = _login(url, email, data)
    try:
        with httpx.Client(base_url=login.url, trust_env=False, timeout=60) as client:
            _sign_in(client, login)
            with tempfile.TemporaryDirectory() as folder:
                archive = Path(folder, "archive")
                status = batches.compress(client, console, files, settings, archive)
                _unpack(archive, files, to)
    except httpx.HTTPError as error:
        raise click.ClickException(f"{login.url} does not answer: {error}") from None
    except StackError as error:
        raise click.ClickException(str(error)) from None
    console.print(f"The smaller copies are in {to}")
    if any(file["status"] != "completed" for file in status["files"]):
        sys.exit(1)


def _login(url: str | None, email: str | None, data: Path) -> Login:
    if url or email:
        if not (url and email):
            raise click.ClickException("Give --url and --email together.")
        return Login(url, email, click.prompt("Password", hide_input=True))
    kept = data / "login.json"
    try:
        found = json.loads(kept.read_text(encoding="utf-8"))
        return Login(found["url"], found["email"], found["password"])
    except FileNotFoundError:
        raise click.ClickException(
            f"There is no {kept}: start Sluice by scripts/up,"
            " or say by --url and --email where it is."
        ) from None


def _sign_in(client: httpx.Client, login: Login) -> None:
    credentials = {"email": login.email, "password": login.password}
    answer = client.post("/api/auth/login", json=credentials)
    if answer.is_error:
        raise click.ClickException(
            f"The log-in was refused: {answer.json().get('error', answer.status_code)}"
        )
    client.headers["Authorization"] = f"Bearer {answer.json()['access_token']}"


def _unpack(archive: Path, files: tuple[Path, ...], to: Path) -> None:
    """Put the copies into the folder; one file came as itself, several as a ZIP archive."""
    to.mkdir(parents=True, exist_ok=True)
    if len(files) == 1:
        (to / files[0].name).write_bytes(archive.read_bytes())
        return
    with zipfile.ZipFile(archive) as packed:
        for name in packed.namelist():
            if name != REPORT:
                (to / Path(name).name).write_bytes(packed.read(name))


if __name__ == "__main__":
    main()
