"""The Hub: card, pictures, push."""
