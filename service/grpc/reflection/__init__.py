"""What the server offers over gRPC, asked by programs that have no .proto files of it.

answers  questions of `grpc.reflection.v1.ServerReflection`, answered out of the files that are there
stream   one call of it: question after question, as long as they come
"""
