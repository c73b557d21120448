import math

from rdrop_paddle.text.perplexity import perplexity


def test_it_is_of_the_mean_and_what_no_float_holds_is_infinite():
    assert perplexity(20, 10) == math.exp(2) and perplexity(3600, 2) == math.inf
