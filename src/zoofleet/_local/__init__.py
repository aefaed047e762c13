"""`zoofleet up`: a cluster on one machine."""
