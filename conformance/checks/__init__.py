"""The pytest modules, one per chapter of the contract. Each check carries the id of the clause it tests."""
