"""Whether what the operator wants looked at is well: checks that run now and then, and what each found last.

Knows neither registries nor configuration files; `app` makes the checks, the server asks what they found.
"""
