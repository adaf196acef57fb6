"""The one exception whose text a person reads: what was given, what is needed, what to do."""


class Refusal(Exception):
    pass
