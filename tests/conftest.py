from hypothesis import settings

from services.observability.logs import configure

# Machines that run the tests are shared: slowness is no failure. Examples are kept in memory only,
# so that a run never depends on an earlier one.
settings.register_profile("triptych", deadline=None, database=None)
settings.load_profile("triptych")

# As the services' processes log. Without it structlog renders every local variable of a traceback,
# tensors included: most of the time of tests that let something fail.
configure("tests", "info", "json")
