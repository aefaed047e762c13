"""`zoofleet bench`: load on a running cluster, and the latencies that its clients see."""
