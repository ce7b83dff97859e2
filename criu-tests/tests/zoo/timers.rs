// SPDX-License-Identifier: Apache-2.0
//! Timers.

exhibits![
    interval_timer_real,
    interval_timer_virtual,
    interval_timer_of_all_processor_time,
    alarm_far_away,
    timer_with_a_value,
    timer_that_tells_nobody,
    timer_at_a_time_of_day,
    timer_of_boot_time,
    timers_that_overrun,
    timer_that_is_not_armed,
    timerfd_with_a_period,
    timerfd_that_has_expired,
    monotonic_time,
    timer_of_processor_time,
    timer_at_an_absolute_time,
    timerfd_of_two_processes,
];
