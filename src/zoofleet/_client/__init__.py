"""The client SDK: calls, streams, jobs and videos, asynchronous and blocking."""
