"""Real servers for the tests of this directory."""

from tests.net.real_servers import apache_server, nginx_server

__all__ = ["apache_server", "nginx_server"]
