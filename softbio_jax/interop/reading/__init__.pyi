from . import shards as shards
from .locate import plain_names as plain_names
from .locate import resolve as resolve
from .locate import split_level as split_level
