"""The service: recommendations over HTTP (the extra ``api``); ``recgraph serve`` starts it."""
