"""What client, scheduler and worker say to each other, written once: kinds of task, parts, statuses, channels."""
