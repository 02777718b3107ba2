"""A page to look at a restoration in a browser: one file of HTML that needs no other."""

from pyro_vble.page.content import Content, Figure, Picture
from pyro_vble.page.reading import content_of
from pyro_vble.page.writing import write_page

__all__ = ["Content", "Figure", "Picture", "content_of", "write_page"]
