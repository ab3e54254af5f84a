// Every algorithm, in the words of the vocabulary included just before.
#include "algorithms/math.inl"
#include "algorithms/codes.inl"
#include "algorithms/tile.inl"
#include "algorithms/linear.inl"
#include "algorithms/elementwise.inl"
#include "algorithms/attention_cache.inl"
#include "algorithms/attention_tiles.inl"
#ifdef FLYWEIGHT_WORD_CODES
#include "algorithms/attention_words.inl"
#else
#include "algorithms/attention_codes.inl"
#endif
#include "algorithms/attention_expanded.inl"
#include "algorithms/attention_rounded.inl"
#include "algorithms/attention.inl"
#include "algorithms/rounding.inl"
#include "algorithms/gptq.inl"
#include "algorithms/gram.inl"
#include "algorithms/limits.inl"
#include "algorithms/sampling.inl"
#include "algorithms/table.inl"
