"""What the project can learn: one module a task, see :class:`base.Task`."""
