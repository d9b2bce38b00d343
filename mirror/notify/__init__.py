"""Who is told of pulls: distribution's notifications, one queue for each endpoint, behind every answer.

Knows neither requests nor configuration files. The server says what was pulled, and never waits.
"""
