"""The OpenAPI document and its JSON Schemas."""
