"""The straight line of a request, and its schemas: everything that knows HTTP.

around/     the stations around every request, whatever its route
attend      the two routes: `POST /v1/models/{model}/attend`, and `POST /v1/attention` on the caller's own
            Q, K, V
browsers/   what is told to browsers, and believed of them: origins, frames, headers that protect
bodies      the body of a request, read whole and decoded in its turn
context     what every route is given: the runtime, the engine, the metrics and the limits, as plain values
embeddings  `POST /v1/embeddings`, `/embeddings`: sentence embeddings, asked for as OpenAI's clients do
envelope    from what a body or a query says to a checked request, or to a message that names what is wrong
            and where
errors      from an exception to a status code and a body: the only place that knows both
exchange    one request from its first byte to its last, in whatever formats: the whole straight line in one
            place
fields/     fields of a request, resolved against a model and a sequence: heads, positions, arrays
negotiate   which format a body is in, and which one the caller wants back. A new format is one line here
oip/        the Open Inference Protocol and its model repository extension
pages/      what is read, not asked: the catalog, health, the documentation and the Explorer
platforms/  routes that hosting platforms call, which know one model and one path
prompts     what a folder says of embeddings beyond the pooling: prompts before texts, vectors cut to fewer
            numbers
read_ahead  texts of a request into tokens before anything else is made of it, where that takes long
replies     a reply on its way out: in buffers that are there, or piece by piece as the socket takes them
resolve     from a checked request to Items: texts tokenized, shapes compared with the model and with each
            other
schemas     the envelopes of `attend` and `/v1/attention`: what may be asked, and how it is documented
selection   from a request's options to a Selection: names spelled out, negative numbers counted from the
            end
tei/        text-embeddings-inference's routes, for its clients
texts/      texts of a request: read into tokens, where that is done, and spans of words
tokens/     `POST /v1/tokenize`, and the line of requests that compute nothing
turns       where Python work of a request is done: at once, in its turn on the event loop, or on a thread
"""
