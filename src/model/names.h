/* SPDX-License-Identifier: Apache-2.0
 * The body of an enum's name function, from an X-macro list: one place for the constant and its name, so that the
 * compiler and the API cannot drift apart.
 * Promises: a name for every constant, and "?" for any other number. Must never: have a `default:`, which would hide from the
 * compiler that one is missing. */
#pragma once

#define NAMES_CONSTANT(constant, name) constant,
#define NAMES_CASE(constant, name)                                                                                     \
	case constant:                                                                                                 \
		return name;
#define NAMES_FUNCTION(function, LIST)                                                                                 \
	const char *function(int value)                                                                                \
	{                                                                                                              \
		switch (value) {                                                                                       \
			LIST(NAMES_CASE)                                                                               \
		}                                                                                                      \
		return "?";                                                                                            \
	}
