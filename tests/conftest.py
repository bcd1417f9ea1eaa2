from hypothesis import settings

# Machines that run the tests are shared: slowness is no failure. Examples are kept in memory only,
# so that a run never depends on an earlier one.
settings.register_profile("triptych", deadline=None, database=None)
settings.load_profile("triptych")
