"""Scratch directories that nobody is left to remove."""

from pathlib import Path

from flask import Flask

from backend.config import Settings
from backend.jobs import attempts, workspace
from backend.jobs.claims import Claim
from tests.unit.jobs.conftest import claimed, in_transaction, submitted


def made_by(app: Flask, held: Claim) -> Path:
    settings: Settings = app.config["SLUICE"]
    folder = workspace.workspace_of(settings, held)
    folder.mkdir(parents=True)
    (folder / "scratch").touch()
    return folder


def test_what_a_dead_attempt_left_is_removed_and_a_running_ones_stays(app: Flask) -> None:
    submitted()
    lost = claimed()
    left = made_by(app, lost)
    in_transaction(attempts.lose, lost, "The worker was lost")
    used = made_by(app, claimed())

    assert workspace.sweep(app.config["SLUICE"]) == 1
    assert not left.exists()
    assert (used / "scratch").exists()


def test_without_any_there_is_nothing_to_remove(app: Flask) -> None:
    assert workspace.sweep(app.config["SLUICE"]) == 0


def test_a_folder_of_another_kind_is_left_alone(app: Flask) -> None:
    settings: Settings = app.config["SLUICE"]
    other = settings.workspaces / "jobs" / "lost-found"
    other.mkdir(parents=True)

    assert workspace.sweep(settings) == 0
    assert other.exists()


def test_each_attempt_has_its_own(app: Flask) -> None:
    submitted()
    first = claimed()
    in_transaction(attempts.lose, first, "The worker was lost")
    settings: Settings = app.config["SLUICE"]

    assert workspace.workspace_of(settings, first) != workspace.workspace_of(settings, claimed())
