"""`adjax live --web`: a page on which the microphone of a browser goes through the codec and back."""

from adjax.live.web.server import run_web

__all__ = ["run_web"]
