"""Images, videos and masks between bytes and arrays. Loads neither gRPC nor protobuf nor torch."""
