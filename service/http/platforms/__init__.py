"""Routes that hosting platforms call, which know one model and one path: SageMaker's and Vertex AI's.

instances   Vertex AI's words: instances and parameters, and predictions back
invocation  one request whose route says nothing of what is asked: its body does
protocol    Open Inference Protocol bodies on a path that names no model
routes      `GET /ping` and `POST /invocations`
"""
