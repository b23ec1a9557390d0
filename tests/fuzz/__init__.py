"""What is fed in from outside, made up by a fuzzer that sees which of the code it reaches."""
