"""Files of weights, whatever framework wrote them; knows no architecture."""
