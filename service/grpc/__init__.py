"""The Open Inference Protocol over gRPC, on a port of its own where `GRPC_PORT` is set.

A call becomes a request to the application, so that limits, keys, quotas, memory, deadlines, metrics, log and
drain are those of HTTP; what is different is how a message is read and written.

address    the port, held from the start, and how it is written
asgi       one call as a request to the application: metadata are headers, the message is the body
contents   InferTensorContents: numbers of a tensor as fields of their own type, and its texts
health     how the server is, asked over gRPC: `grpc.health.v1.Health`, ServerLive and ServerReady
infer      one ModelInfer call on the straight line: the codec of its messages
protobuf   fields out of bytes as views, and into bytes: the encoding, as far as tensors need it
questions  what is asked of the server and its models, as requests of `/v2`, and the answers as messages
reflection/  what is offered, asked by programs that have no .proto files of it
reply      a ModelInferResponse, written around the bytes of its tensors
request    a ModelInferRequest, read into the request that the protocol's other forms are read into
schema     the classes of the other messages, made of the .proto files that lie here
server     the gRPC server of one process: its port, its limits, its methods, and its end
starting   where the server meets this room: packages and port, then the parts that are there
station    the station that answers calls, behind all others
statuses   from a reply's status to gRPC's, and what goes beside it as metadata
wiring     the server of an application: settings as plain values
"""
