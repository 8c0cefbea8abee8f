"""Files to records, records to prompts, prompts to tokens.

Knows file formats, records, templates and tokenizers.
Knows no loaded model, no objective and no run.
"""
