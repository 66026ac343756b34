//! What is checked before anything is changed.

use crate::failure::Failure;
use crate::mount::paths::Endpoints;
use crate::mount::{attach, occupied};
use crate::mount_plan::MountPlan;

/// Opens SOURCE and MOUNTPOINT.
///
/// # Errors
/// Everything that can be found out before anything is changed.
pub(crate) fn check(plan: &MountPlan) -> Result<Endpoints, Failure> {
    let endpoints =
        Endpoints::open(&plan.source, &plan.mountpoint).map_err(Failure::Configuration)?;
    if !plan.nonempty {
        occupied::check(&endpoints, &plan.kernel.subtype).map_err(Failure::Configuration)?;
    }
    attach::check_prerequisites()?;
    Ok(endpoints)
}
