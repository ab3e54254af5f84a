// Every algorithm, in the words of the vocabulary included just before.
#include "algorithms/math.inl"
#include "algorithms/tile.inl"
#include "algorithms/linear.inl"
#include "algorithms/elementwise.inl"
#include "algorithms/attention.inl"
#include "algorithms/gptq.inl"
#include "algorithms/limits.inl"
#include "algorithms/table.inl"
