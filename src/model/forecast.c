/* SPDX-License-Identifier: Apache-2.0 */
#include "model/forecast.h"
#include "model/names.h"

NAMES_FUNCTION(forecast_end_name, FORECAST_ENDS)
NAMES_FUNCTION(forecast_limit_name, FORECAST_LIMITS)
