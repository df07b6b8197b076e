"""The table of contents: everything that the application is made of, as plain tuples."""

from collections.abc import Callable

import click
from flask import Flask

from backend.config import Settings
from backend.http.api import Blueprint

EXTENSIONS: tuple[Callable[[Flask, Settings], None], ...] = ()

BLUEPRINTS: tuple[Blueprint, ...] = ()

COMMANDS: tuple[click.Command, ...] = ()
