"""Routes, schemas, authentication, status codes and middleware: everything that knows HTTP."""
