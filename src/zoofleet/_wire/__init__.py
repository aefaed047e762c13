"""What client, scheduler and worker must agree on, written once: kinds, parts, names, pages, limits, statuses."""
