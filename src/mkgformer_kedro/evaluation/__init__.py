"""How good experts are, in wings: ranking, extraction, and the report that both end with.

An *expert* is whatever answers: a model, the same model without images, a baseline, a mixture. One
predictions table holds the answers of all of them (columns ``expert`` and ``seed``), and everything
here runs over whatever experts it finds.
"""
