"""Text: translation, summarisation, language modelling and understanding."""
