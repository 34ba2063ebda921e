"""Who is who: identifiers and evidence in, persons with lasting ids out. Pure rules; `warehouse/identity_store.py`
acts."""
