"""Running on Ray and DeepSpeed. The only room that imports either."""
