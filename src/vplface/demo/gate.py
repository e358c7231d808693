"""Former place of :class:`vplface.demo.middleware.AllowlistMiddleware`, kept until version 0.2."""

from vplface.demo.middleware import AllowlistMiddleware as Gate

__all__ = ["Gate"]
