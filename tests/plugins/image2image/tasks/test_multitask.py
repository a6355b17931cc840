"""Palette's tasks by one network."""

from plugins.image2image.tasks.multitask import MultiTask


def test_a_network_that_learned_several_tasks_draws_for_each():
    """Channels and conditions are the same, which is what `sample` asks."""
    several = MultiTask()
    for task in several.tasks:
        assert (task.channels, task.conditions) == (several.channels, several.conditions)
