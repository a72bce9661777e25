from .stage import Stage


def run(stage: Stage) -> None:
    pass
