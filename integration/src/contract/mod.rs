//! The contract suite: what every data plane must do, written once.
//!
//! A plane joins by a [`PlaneUnderTest`] fixture and one test file that says `contract_suite!(Fixture);`. Scenarios
//! speak of clients, flows and backends only, so that the reference in memory and planes that move real packets run
//! the same text. They wait on conditions, never for a time; random choices print their seed.

pub mod affinity;
pub mod balance;
pub mod drain;
pub mod empty;
pub mod fake;
mod fixture;
pub mod hosted;
pub mod kernel;
pub mod limits;
pub mod loopback;
pub mod removal;
pub mod table;
mod talk;
mod world;

pub use fixture::{Dialed, PlaneUnderTest, Said};
pub use talk::SocketFlow;
pub use world::{Front, World};

/// Makes one test of every scenario for a fixture.
#[macro_export]
macro_rules! contract_suite {
    ($fixture:ty) => {
        $crate::contract_tests! { $fixture;
            affinity::a_client_stays_with_its_backend_whatever_the_port,
            affinity::affinity_is_forgotten_after_its_timeout,
            affinity::affinity_yields_when_its_backend_takes_no_new_flow,
            balance::round_robin_is_even,
            balance::weighted_round_robin_follows_weights,
            balance::least_connections_counts_open_flows,
            balance::random_follows_weights,
            balance::maglev_is_the_same_everywhere,
            balance::udp_clients_are_balanced,
            balance::weight_zero_takes_no_new_flow_and_keeps_old_ones,
            drain::draining_tcp_keeps_old_flows_until_the_deadline,
            drain::draining_udp_keeps_old_flows_until_the_deadline,
            drain::down_keeps_tcp_and_moves_udp,
            empty::reject_refuses_at_once,
            empty::drop_is_silent,
            empty::hold_waits_for_a_backend,
            empty::a_backend_that_comes_back_serves,
            limits::only_allowed_sources_connect,
            limits::the_connection_limit_of_a_backend_holds,
            limits::counters_count,
            removal::a_removed_tcp_backend_resets_its_flows,
            removal::a_removed_udp_backend_loses_its_flows_at_once,
            removal::a_removed_frontend_is_gone,
            removal::hairpin_works,
            table::a_policy_change_keeps_flows,
            table::a_published_port_works_without_a_local_instance,
            table::a_range_leads_port_by_port,
            table::applying_twice_changes_nothing,
            table::an_operation_without_a_place_is_reported,
            table::observing_gives_what_was_applied,
            table::restart_keeps_the_contract,
            table::teardown_leaves_nothing,
            table::two_thousand_frontends,
        }
    };
}

/// The scenarios that need bytes to flow, for planes that move packets.
#[macro_export]
macro_rules! contract_suite_bytes {
    ($fixture:ty) => {
        $crate::contract_tests! { $fixture;
            removal::half_close_is_passed_on,
        }
    };
}

/// The scenarios of planes that program the kernel of a host (fixtures that are [`hosted::Hosted`]).
#[macro_export]
macro_rules! contract_suite_hosted {
    ($fixture:ty) => {
        $crate::contract_tests! { $fixture;
            hosted::the_backend_sees_the_clients_own_address,
            hosted::a_port_published_everywhere_is_open_on_every_address_and_shadows_no_other,
            hosted::a_port_published_on_one_address_is_open_there_alone,
            hosted::a_range_of_two_hundred_ports_is_open,
            hosted::a_rolling_update_of_32_instances_fails_nobody,
            hosted::containers_of_one_bridge_reach_each_other_and_themselves,
            hosted::no_connection_fails_while_backends_change,
            hosted::tables_of_others_stay_as_they_are,
        }
    };
}

/// The scenarios of planes whose flows are the kernel's connection tracking's.
#[macro_export]
macro_rules! contract_suite_conntrack {
    ($fixture:ty) => {
        $crate::contract_tests! { $fixture;
            hosted::an_idle_connection_is_kept,
        }
    };
}

/// One test a scenario.
#[doc(hidden)]
#[macro_export]
macro_rules! contract_tests {
    ($fixture:ty; $($module:ident::$scenario:ident,)+) => { $(
        #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
        async fn $scenario() {
            if <$fixture as $crate::contract::PlaneUnderTest>::possible() {
                $crate::contract::$module::$scenario::<$fixture>().await;
            }
        }
    )+ };
}
