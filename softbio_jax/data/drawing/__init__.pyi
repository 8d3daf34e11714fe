from .appearance import Style as Style
from .appearance import sample_face as sample_face
from .face import Face as Face
from .rendering import render as render
from .synthetic import SOURCES as SOURCES
from .synthetic import draw as draw
