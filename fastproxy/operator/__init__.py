"""Kubernetes, thin: custom resources in, manifests out, applied by one field manager.

Who may live here: what knows a resource of ours (crd, parts, schema, definitions), what turns it into manifests without
looking at a cluster (render and the files it calls), and what talks to an API server (kube, reconcile and their like).
Nothing of the data plane: a rendered pod is reached through its command line, its ConfigMap and its probes alone.
"""
