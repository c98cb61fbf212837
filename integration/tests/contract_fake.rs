//! The reference plane in memory keeps the contract.

use mesh_integration::{contract::fake::FakeFixture, contract_suite};

contract_suite!(FakeFixture);
