"""Doubles and servers for tests, shipped: FakeClock, provider simulator, factories."""
